from benchmarks.slowmo.runner import main

main()

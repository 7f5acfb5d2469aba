from benchmarks.speed.runner import main

main()

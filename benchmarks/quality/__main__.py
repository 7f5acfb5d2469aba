from benchmarks.quality.runner import main

main()

from bottega.cli import main

main()

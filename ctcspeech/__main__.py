from ctcspeech.cli import main

main()

from lstm_lib.cli import main

raise SystemExit(main())

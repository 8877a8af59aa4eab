from genrefocus.cli import main

raise SystemExit(main())

"""Entry of `python -m fastnet`."""
from fastnet._cli import main

raise SystemExit(main())

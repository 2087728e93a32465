"""`python -m glm5bench` is `glm5bench`."""

from .cli import main

raise SystemExit(main())

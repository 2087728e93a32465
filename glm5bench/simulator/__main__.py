"""`python -m glm5bench.simulator`: what a node job starts for engine=simulated."""

from .serve import main

raise SystemExit(main())

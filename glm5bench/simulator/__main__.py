"""`python -m glm5bench.simulator`: the server that a node job starts for engine=simulated."""

from .serve import main

raise SystemExit(main())

"""Problems whose answers are known, and assertions about draws: what tests and benchmarks share."""

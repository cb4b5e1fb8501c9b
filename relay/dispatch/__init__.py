"""Which delivery is tried when: lanes, pacing, schedule, verdict."""

"""Engine, the group-committing writer, schema, migrations."""

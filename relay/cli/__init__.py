"""The command tree, one file per noun: tables for people, --json for programs."""

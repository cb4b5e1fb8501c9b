"""What an upstream reply means: cause, remedy, scope; the catalogue is data."""

from relay.diagnosis.catalogue import catalogue_entries
from relay.diagnosis.explanation import explain
from relay.diagnosis.meaning import diagnose
from relay.diagnosis.model import Class, Diagnosis, Entry, Scope, Who

__all__ = ["Class", "Diagnosis", "Entry", "Scope", "Who", "catalogue_entries", "diagnose", "explain"]

"""Everything that touches a dataset's files or runs over a whole store, and its commands: readers,
jobs on Beam, generated scenes, and the two trainings that need raw pictures. It never says what is
stored or how a network is made: that is `latent_store`'s and `training`'s, which it imports."""

import logging

# Beam says at import, on every machine without Google's BigQuery client, that it is missing;
# nothing here uses it, and a command's stderr belongs to its progress and errors.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())

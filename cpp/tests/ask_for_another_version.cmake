# Included by the consumer project: a version that is not there must not be found.
find_package(autosam 9 CONFIG REQUIRED)

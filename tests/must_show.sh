#!/usr/bin/env bash
# Measures what the project promises to show and prints a table: tests/must_show.sh [OPTIONS]
# Options and requirements: tests/must_show.py --help. An idle machine, please; about 40 minutes.
exec "${ATOLL_TEST_PYTHON:-python3}" -B "$(dirname "$0")/must_show.py" "$@"

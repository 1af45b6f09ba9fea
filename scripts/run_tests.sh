#!/bin/sh
# Usage: scripts/run_tests.sh FOLDER [meson test options]
# Runs the tests of a build folder. The last line says how many single tests passed.
set -eu
cd "$(dirname "$0")/.."
PATH=/usr/bin:$PATH
folder=$1
shift

status=0
meson test -C "$folder" --no-rebuild "$@" < /dev/null || status=$?

# With a setup, the log's name carries it.
python3 - "$folder/meson-logs/testlog.json" "$folder/meson-logs/testlog-quick.json" << 'END' || status=1
import json, os, sys

log = max(filter(os.path.exists, sys.argv[1:]), key=os.path.getmtime, default=None)
if not log:
    sys.exit('no test ran')
passed = failed = 0
skipped = []
for program in map(json.loads, open(log)):
    lines = program['stdout'].splitlines()
    good = sum(line.startswith('ok ') for line in lines)
    bad = [line for line in lines if line.startswith('not ok ')]
    if program['result'] == 'SKIP':
        skipped.append(program['name'])
        continue
    whole = program['result'] == 'OK'
    if not whole:
        print(f"\n---- {program['name']}: {program['result']}\n{program['stdout'][-4000:]}\n{program.get('stderr', '')[-4000:]}")
    passed += good or whole
    failed += len(bad) or not whole
if skipped:
    print('skipped:', *skipped)
print(f'{passed} passed, {failed} failed')
sys.exit(failed > 0 or passed == 0)
END
exit $status

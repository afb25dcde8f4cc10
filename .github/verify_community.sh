#!/usr/bin/env bash
# Verify every bundle that a pull request adds or changes: results/community/<group>/<benchmark>/.
#
#   verify_community.sh CHECKOUT BASE ROBUSTFT
#
# CHECKOUT: the pull request's files; nothing in it is run. BASE: the commit that it goes to. ROBUSTFT: the program, which
# is that of BASE. Bundles hold records, samples, tables and pictures: no other file is taken, and no code.
set -euo pipefail
cd "$1"
base=$2 robustft=$3
most_bytes=50000000

refuse() {
  printf 'refused: %q: %s\n' "$1" "$2" >&2
  exit 1
}

bundles=() others=()
while IFS= read -r -d '' path; do
  case $path in
    results/community/README.md) others+=("$path") ;;
    results/community/*/*/*)
      rest=${path#results/community/} group=${path#results/community/}
      group=${group%%/*} rest=${rest#*/}
      folder=results/community/$group/${rest%%/*}
      [[ " ${bundles[*]-} " == *" $folder "* ]] || bundles+=("$folder")
      [[ $group/${rest%%/*} =~ ^[a-z0-9][a-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
        refuse "$folder" "name the group in small letters, digits and - and the benchmark as boards do"
      ;;
    results/community/*) refuse "$path" "a bundle goes to results/community/<group>/<benchmark>/" ;;
    *) others+=("$path") ;;
  esac
done < <(git diff --no-renames --name-only -z "$base...HEAD")
((${#bundles[@]})) || exit 0
((${#others[@]} == 0)) || refuse "${others[0]}" "a pull request with a bundle changes nothing else"

benchmarks=()
for folder in "${bundles[@]}"; do
  [[ -e $folder ]] || continue # taken back by its group
  while IFS= read -r -d '' entry; do
    path=${entry#*$'\t'} name=${entry##*/}
    [[ $entry == "100644 "* ]] || refuse "$path" "must be a plain file that is no program"
    case $name in
      record.json | path.json | manifest.json | tuned.json) ;;
      *.parquet | leaderboard*.csv | leaderboard.md | leaderboard.tex | leaderboard.html) ;;
      *.svg | *.svgz | *.png) ;;
      *) refuse "$path" "is no file that robustft bundle writes" ;;
    esac
  done < <(git ls-files -s -z -- "$folder")
  (($(du -sb "$folder" | cut -f 1) <= most_bytes)) || refuse "$folder" "holds more than $most_bytes bytes"
  printf '\n%s\n' "$folder"
  "$robustft" verify "$folder"
  benchmark=${folder##*/}
  [[ " ${benchmarks[*]-} " == *" $benchmark "* ]] || benchmarks+=("$benchmark")
done
# Only together with others' samples do forged labels show, and names that are taken.
for benchmark in "${benchmarks[@]}"; do
  "$robustft" merge results/community/*/"$benchmark" --results "${RUNNER_TEMP:-$(mktemp -d)}/merged"
done

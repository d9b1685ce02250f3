#!/bin/sh
# Grants diffluent's principal the least rights that it needs on one side (docs/security.md says what each is for).
#
#   deploy/acls/grant.sh local  User:diffluent [TOPIC...]     on the cluster that the proxy stands in front of
#   deploy/acls/grant.sh region User:diffluent [TOPIC...]     on each region's cluster
#
# A TOPIC is a topic's name on that side, or the start of names with a * behind it: 'payments-*'. Without any: all topics.
#
# KAFKA_ACLS is the command with what it needs to get in; left out, the commands are only shown:
#
#   KAFKA_ACLS='kafka-acls --bootstrap-server kafka:9092 --command-config admin.properties' deploy/acls/grant.sh local User:diffluent
#
# NO_HISTORY=1 leaves out the topic of past configurations, for `history = false` in [admin].
# NO_CREATE=1 leaves out the rights to create topics and add partitions in a region: you do that yourself then.
set -eu

usage() {
    sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 64
}

[ $# -ge 2 ] || usage
side=$1 principal=$2
shift 2
[ $# -gt 0 ] || set -- '*'

# grant RESOURCE NAME OPERATION...
grant() {
    resource=$1 name=$2 pattern=literal
    shift 2
    case $name in
        '*') ;;
        *'*') name=${name%'*'} pattern=prefixed ;;
    esac
    operations=
    for operation in "$@"; do operations="$operations --operation $operation"; done
    if [ -n "${KAFKA_ACLS:-}" ]; then
        # Both are lists of words.
        # shellcheck disable=SC2086
        $KAFKA_ACLS --add --allow-principal "$principal" $operations "--$resource" "$name" --resource-pattern-type "$pattern"
    else
        echo "kafka-acls --bootstrap-server BROKER:9092 --command-config admin.properties --add --allow-principal '$principal'$operations --$resource '$name' --resource-pattern-type $pattern"
    fi
}

case $side in
    local)
        for topic in "$@"; do grant topic "$topic" Read DescribeConfigs; done
        grant group 'diffluent.*' Read
        # Where configurations are kept that were in effect.
        [ -n "${NO_HISTORY:-}" ] || grant topic diffluent.config Write Read Create
        ;;
    region)
        for topic in "$@"; do
            if [ -n "${NO_CREATE:-}" ]; then grant topic "$topic" Write Read; else grant topic "$topic" Write Read Create Alter; fi
        done
        ;;
    *) usage ;;
esac

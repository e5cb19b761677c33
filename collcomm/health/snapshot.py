"""What a coordinator shows of one group: the snapshot that `collcomm status`, `collcomm top`, metrics and the dashboard read.

Plain JSON, made by a coordinator about once a second. Times are seconds, rates bytes per second or operations per second;
``at`` is wall-clock time (seconds since 1970); members are named by id. What is not known is null, or missing from a list.

    version     1
    at          when this was made
    group       its name
    state       "forming", "steady", "changing", or "recovering" after the coordinator was lost
    epoch       of the present view; ``since``: when that view came
    members     [{"id", "rank", "name", "host", "port", "host_id", "site",
                  "joined",                 when it came
                  "heard",                  seconds since it was heard last
                  "rtt",                    of a pulse
                  "state",                  "computing", "communicating", "waiting" or "silent"
                  "operation",              {"gid", "seq", "kind", "nbytes", "age", "waiting_on": [id, ...]} or null
                  "operations",             completed so far
                  "rate",                   operations per second
                  "sent", "received",       bytes per second
                  "computed",               share of the time outside operations, 0 to 1
                  "late"}]                  seconds by which it comes later to operations than the first, median
    pending     how many wait to be admitted
    links       [{"source", "target", "latency", "bandwidth", "streams", "age"}]       as measured
    relayed     [{"members": [id, id], "relay"}]              pairs that are linked through a third, 0: this coordinator
    traffic     [{"source", "target", "sent", "busy"}]        bytes per second now; share of the time with data on its way
    plan        {"revision", "order": [id, ...], "sites": [number for each of order]} or null
    findings    [{"id", "syndrome", "culprit", "members", "names", "at", "evidence", "confidence", "since", "factor",
                  "action", "ended"}]       oldest first; ``action``: what was done, or null; ``ended``: when it was over, or
                  null
    events      [{"at", "kind", "member", "name", "text"}]    oldest first; kind: "view", "joined", "left", "died", "evicted",
                                                              "rejected", "finding", "recovered", "action", "plan"
    totals      [{"kind", "cause", "count"}]    of all events since this coordinator knows the group; ``cause``: of an exit, in
                                                two or three words of which there are few, otherwise ""
    history     [{"at", "operations", "sent", "members"}]     by second, oldest first: rates of the whole group
    left_out    names of the lists that are empty here because all of it would be too long; usually missing
"""

from __future__ import annotations

VERSION = 1
MOST_FINDINGS = 200
MOST_EVENTS = 500
MOST_HISTORY = 600  # seconds

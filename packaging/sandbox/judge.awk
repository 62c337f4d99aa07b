# Lays what the probes answered beside `expected`; prints the table, then each deviation. Exit status 1 where there is one.
function short(file) {
    sub(/.*\//, "", file)
    if (file ~ /^obelisk@/) return "node"
    if (file ~ /^obelisk-signer/) return "signer"
    if (file ~ /^obelisk-ca/) return "ca"
    return file
}
FNR == 1 { run = short(FILENAME); if (run != "expected") runs[++count] = run }
/^#/ || NF < 2 || $1 == "end" { next }
run == "expected" { order[++attempts] = $1; control[$1] = $2; may[$1] = "," $3 ","; next }
{ got[run, $1] = $2; if (!($1 in control)) wrong[++failures] = "FAILED: " $1 " has no row in expected" }
END {
    line = "| attempt |"; rule = "| --- |"
    for (r = 1; r <= count; r++) { line = line " " runs[r] " |"; rule = rule " --- |" }
    print line; print rule
    for (a = 1; a <= attempts; a++) {
        name = order[a]; line = "| " name " |"
        for (r = 1; r <= count; r++) {
            unit = runs[r]; answer = got[unit, name]
            line = line " " answer " |"
            if (answer == "" || answer == "not-tried") wrong[++failures] = "FAILED: " name " was not tried in " unit
            if (unit == "root" || unit == "user") {
                if (unit == control[name] && answer != "done")
                    wrong[++failures] = "FAILED: " name ": " unit " could not do it either (" answer "); the attempt proves nothing"
                continue
            }
            if (control[name] == "call" && got["root", name] == "ENOSYS") {
                if (answer != "EPERM") wrong[++failures] = "FAILED: " unit " may call what " name " needs (" answer ")"
                continue
            }
            allowed = index(may[name], "," unit ",") > 0
            if (answer == "done" && !allowed) wrong[++failures] = "FAILED: " unit " may " name
            if (answer != "done" && allowed) wrong[++failures] = "FAILED: " unit " may not " name " (" answer ") and needs it"
        }
        if (control[name] == "call" && got["root", name] != "ENOSYS" && got["root", name] != "done")
            unproved = unproved " " name
        if (control[name] == "group" && answer == "EOPNOTSUPP") unproved = unproved " " name
        if (control[name] == "-" && got["root", name] != "done" && got["user", name] != "done")
            unproved = unproved " " name
        print line
    }
    if (unproved != "") print "refused to everybody here, so nothing is shown about:" unproved
    for (f = 1; f <= failures; f++) print wrong[f] > "/dev/stderr"
    exit failures > 0
}

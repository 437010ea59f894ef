# Completes the line $1 as an interactive bash does: it splits words at colons, equals signs and `@`,
# asks for the last piece, of which `@` is a part, and passes the line itself too. Prints what the
# piece may become, on a line.
try() {
    local IFS=$'\n' current
    COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMPREPLY=()
    COMP_WORDS=($(grep -oE '[:=@]+|[^ :=@]+' <<<"$1"))
    current=$(grep -oE '@?[^ :=@]*$' <<<"$1" | head -n 1)
    [[ $1 != *' ' ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _clap_complete_banger banger "$current"
    IFS=' '
    echo "${COMPREPLY[*]}"
}

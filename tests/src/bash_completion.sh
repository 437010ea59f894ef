# Completes the line $1 as an interactive bash does: it splits words at colons and equals signs, asks for the last piece, and passes
# the line itself too. Prints what the piece may become, on a line.
try() {
    local IFS=$'\n' current
    COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMPREPLY=()
    COMP_WORDS=($(grep -oE '[:=]+|[^ :=]+' <<<"$1"))
    current=${COMP_WORDS[-1]}
    case $1 in
        *' ') current='' COMP_WORDS+=('') ;;
        *[:=]) current='' ;;
    esac
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _clap_complete_banger banger "$current"
    IFS=' '
    echo "${COMPREPLY[*]}"
}

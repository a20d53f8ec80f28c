# What the blocks of a page find in their shell. File descriptor 3 tells the runner.
set -eE -o pipefail
trap 'echo "line ${BASH_SOURCE[0]##*/}:$LINENO $BASH_COMMAND" >&3' ERR
background=() labels=()

# await COMMAND... tries a command until it succeeds, for 20 seconds: await eval 'a && b'.
await() {
	local end=$((SECONDS + 20))
	until "$@" >"$DOCS/await" 2>&1; do
		still_running || return
		if [ $SECONDS -ge $end ]; then
			echo "still failing after 20 s: $*"
			cat "$DOCS/await"
			return 1
		fi
		sleep 0.05
	done
}

# port N: something accepts connections there.
port() { (exec 3<>"/dev/tcp/localhost/$1") 2>/dev/null; }

# ready [ADMIN-PORT]: the node is.
ready() { curl "http://localhost:${1:-8002}/ready"; }

# endpoint NAME [ADMIN-PORT]: somebody listens on it.
endpoint() { curl "http://localhost:${2:-8002}/status/upstream/endpoints" | grep -q "\"$1\""; }

# service [tcp] PORT: a service for agents, which says hello.
service() {
	local flags=
	[ "$1" != tcp ] || { flags=-tcp; shift; }
	in_background service "$DOCS_RUNNER -service localhost:$1 $flags"
	await port "$1"
}

# in_background LABEL COMMAND starts a command of the page.
in_background() {
	{ eval "$2 &"; } >"$DOCS/background.${#background[@]}" 2>&1 </dev/null 3>&-
	background+=($!)
	labels+=("$1")
}

# still_running fails for the first command in the background that has failed.
still_running() {
	local i
	for i in "${!background[@]}"; do
		kill -0 "${background[i]}" 2>/dev/null || wait "${background[i]}" || { echo "ended with status $?: ${labels[i]}"; return 1; }
	done
}

# stop ends what runs in the background, as ^C and systemd do.
stop() {
	still_running
	[ ${#background[@]} -gt 0 ] || return 0
	kill "${background[@]}" 2>/dev/null || true
	wait "${background[@]}" 2>/dev/null || true
	background=() labels=()
}

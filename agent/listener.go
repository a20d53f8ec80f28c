package agent

type listener struct{}

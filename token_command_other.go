//go:build !unix

package main

import "os/exec"

// killGroup leaves what the command has started to itself.
func killGroup(*exec.Cmd) {}

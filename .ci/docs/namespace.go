package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideArg makes this program set up the namespace that it is in, and run a command there.
const insideArg = "--inside"

// isolate gives a command namespaces of its own: network, so that every port is free and nothing
// leaves the machine, and processes, so that all that it has started ends with it. Without root it
// becomes root of a user namespace.
func isolate(cmd *exec.Cmd) *exec.Cmd {
	attr := &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	return cmd
}

// inside is the first process of the namespaces: it brings loopback up, shows /proc as it is now,
// and waits for the command. With it everything else ends.
func inside(args []string) {
	if err := loopbackUp(); err != nil {
		fail(fmt.Errorf("bring loopback up: %w", err))
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		fail(fmt.Errorf("make mounts private: %w", err))
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fail(fmt.Errorf("mount /proc: %w", err))
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if len(args) > 1 {
		cmd.ExtraFiles = []*os.File{os.NewFile(3, "events")}
	}
	err := cmd.Run()
	if cmd.ProcessState != nil {
		os.Exit(max(cmd.ProcessState.ExitCode(), 0))
	}
	fail(err)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifreq.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq)
}

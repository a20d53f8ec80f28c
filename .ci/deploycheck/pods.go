package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func newReader(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }

// hasPort reports whether a container has the port, by name or number.
func hasPort(pod corev1.PodSpec, port string, protocol corev1.Protocol) bool {
	for _, c := range pod.Containers {
		for _, p := range c.Ports {
			same := p.Name == port || fmt.Sprint(p.ContainerPort) == port
			if same && orTCP(p.Protocol) == orTCP(protocol) {
				return true
			}
		}
	}
	return false
}

func orTCP(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func (c *cluster) checkWorkload(w workload) error {
	errs := []error{checkLabels(w.template.Labels)}
	if other, err := c.selected(w.selector); err != nil || other.name != w.name {
		errs = append(errs, fmt.Errorf("does not select its own pods: %w", err))
	}
	if w.headless != "" {
		if s := c.services[w.headless]; s == nil || s.Spec.ClusterIP != corev1.ClusterIPNone {
			errs = append(errs, fmt.Errorf("serviceName %q is no headless service", w.headless))
		}
	}
	pod := w.template.Spec
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		errs = append(errs, errors.New("enableServiceLinks is not false: Kubernetes' variables begin with PIKO_, as ours do"))
	}
	for i := range pod.Containers {
		errs = append(errs, c.checkContainer(pod, &pod.Containers[i]))
	}
	return errors.Join(errs...)
}

func (c *cluster) checkContainer(pod corev1.PodSpec, container *corev1.Container) error {
	var errs []error
	for _, p := range container.Ports {
		for _, reason := range append(validation.IsValidPortName(p.Name), validation.IsValidPortNum(int(p.ContainerPort))...) {
			errs = append(errs, fmt.Errorf("port %s: %s", p.Name, reason))
		}
	}
	for name, probe := range map[string]*corev1.Probe{"startup": container.StartupProbe, "readiness": container.ReadinessProbe, "liveness": container.LivenessProbe} {
		if probe != nil && (probe.HTTPGet == nil || !hasPort(pod, probe.HTTPGet.Port.String(), corev1.ProtocolTCP)) {
			errs = append(errs, fmt.Errorf("%s probe asks a port that is not there", name))
		}
	}
	for _, m := range container.VolumeMounts {
		if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
			errs = append(errs, fmt.Errorf("volume %s is not there", m.Name))
		}
	}
	return errors.Join(append(errs, checkVariables(container), checkSecurity(pod, container), c.checkJoin(pod, container), c.checkTimes(pod, container), c.checkPorts(pod, container))...)
}

// checkVariables checks that each $(NAME) in the arguments is a variable.
func checkVariables(container *corev1.Container) error {
	for _, arg := range container.Args {
		_, rest, ok := strings.Cut(arg, "$(")
		name, _, closed := strings.Cut(rest, ")")
		if ok && (!closed || !slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == name })) {
			return fmt.Errorf("argument %s: there is no variable %s", arg, name)
		}
	}
	return nil
}

// checkSecurity checks that the pod is one for the restricted pod security
// standard, and then some.
func checkSecurity(pod corev1.PodSpec, container *corev1.Container) error {
	p, s := pod.SecurityContext, container.SecurityContext
	switch {
	case p == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser == 0:
		return errors.New("may run as root")
	case p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
		return errors.New("has no seccomp profile")
	case s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
		return errors.New("may gain privileges")
	case s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem:
		return errors.New("may write to its file system")
	case s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL"):
		return errors.New("keeps capabilities")
	case container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Cpu().IsZero():
		return errors.New("has no memory limit or no CPU request")
	}
	return nil
}

// flagValue is the value of --name in the container's arguments.
func flagValue(container *corev1.Container, name string) string {
	for _, arg := range container.Args {
		if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// checkJoin checks that nodes look for each other where addresses are published
// before the nodes are ready: they are ready only when they have found each other.
func (c *cluster) checkJoin(pod corev1.PodSpec, container *corev1.Container) error {
	name := c.setting(pod, container, "cluster.join")
	if name == "" {
		return nil
	}
	if s := c.services[name]; s == nil || s.Spec.ClusterIP != corev1.ClusterIPNone || !s.Spec.PublishNotReadyAddresses {
		return fmt.Errorf("--cluster.join=%s is no headless service with publishNotReadyAddresses", name)
	}
	return nil
}

// checkTimes checks that piko is not killed while it stops in good order, and
// that it does not stop before its readiness has been asked for.
func (c *cluster) checkTimes(pod corev1.PodSpec, container *corev1.Container) error {
	duration := func(name string) time.Duration {
		d, _ := time.ParseDuration(c.setting(pod, container, name))
		return d
	}
	grace, delay := duration("grace-period"), duration("shutdown-delay")
	if pod.TerminationGracePeriodSeconds == nil || time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second <= grace {
		return fmt.Errorf("terminationGracePeriodSeconds is not above --grace-period (%v), in which --shutdown-delay is", grace)
	}
	if r := container.ReadinessProbe; r != nil && slices.Contains(container.Args, "server") {
		if noticed := time.Duration(r.PeriodSeconds*r.FailureThreshold) * time.Second; noticed >= delay || delay < 5*time.Second {
			return fmt.Errorf("--shutdown-delay (%v) is not above 5 s and the time that readiness needs (%v)", delay, noticed)
		}
	}
	return nil
}

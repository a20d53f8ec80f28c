package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// maxExposure is what `systemd-analyze security` may say of a unit, in tenths: 0 is nothing, 100 everything. What is left
// is the network, which is what piko is for.
const maxExposure = "11"

var units = []string{"deploy/systemd/piko-server.service", "deploy/systemd/piko-agent.service"}

func TestUnitsAreHardened(t *testing.T) {
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"DynamicUser=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "ProtectHome=yes",
			"PrivateDevices=yes", "PrivateTmp=yes", "MemoryDenyWriteExecute=yes", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
			"SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources", "UMask=0077",
		} {
			if !bytes.Contains(text, []byte("\n"+line+"\n")) {
				t.Errorf("%s: %s is missing", unit, line)
			}
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	for _, unit := range units {
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", "--threshold="+maxExposure, unit).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: more exposed than %s tenths:\n%s", unit, err, maxExposure, out)
		}
	}
}

// podSpec is what a pod may do, and its containers.
type podSpec struct {
	Token           *bool `yaml:"automountServiceAccountToken"`
	HostNetwork     bool  `yaml:"hostNetwork"`
	SecurityContext struct {
		NonRoot bool                  `yaml:"runAsNonRoot"`
		User    int                   `yaml:"runAsUser"`
		Seccomp struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	Containers []struct {
		Name            string
		SecurityContext struct {
			Escalation   *bool `yaml:"allowPrivilegeEscalation"`
			Privileged   bool
			ReadOnly     bool `yaml:"readOnlyRootFilesystem"`
			Capabilities struct{ Add, Drop []string }
		} `yaml:"securityContext"`
	}
}

func TestPodsAreHardened(t *testing.T) {
	pods := 0
	for _, file := range []string{"deploy/kubernetes/server.yaml", "deploy/kubernetes/agent.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents := yaml.NewDecoder(bytes.NewReader(text))
		for {
			var object struct {
				Kind string
				Spec struct {
					Template struct{ Spec podSpec }
				}
			}
			err := documents.Decode(&object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if pod := object.Spec.Template.Spec; len(pod.Containers) > 0 {
				pods++
				checkPod(t, file+": "+object.Kind, &pod)
			}
		}
	}
	if pods < 2 {
		t.Errorf("only %d pods were found", pods)
	}
}

func checkPod(t *testing.T, where string, pod *podSpec) {
	t.Helper()
	if s := pod.SecurityContext; !s.NonRoot || s.User == 0 || s.Seccomp.Type != "RuntimeDefault" || pod.HostNetwork || pod.Token == nil || *pod.Token {
		t.Errorf("%s: the pod may do too much: %+v", where, pod)
	}
	for _, c := range pod.Containers {
		s := c.SecurityContext
		if s.Escalation == nil || *s.Escalation || s.Privileged || !s.ReadOnly || len(s.Capabilities.Add) > 0 || strings.Join(s.Capabilities.Drop, ",") != "ALL" {
			t.Errorf("%s: container %s may do too much: %+v", where, c.Name, s)
		}
	}
}

func TestContainersAreHardened(t *testing.T) {
	text, err := os.ReadFile("Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, _ := strings.Cut(string(text), "\nFROM scratch\n")
	if !strings.Contains(last, "\nUSER 65532:65532\n") {
		t.Error("Containerfile: the last stage is not empty, or its user may be root")
	}
	if text, err = os.ReadFile("deploy/compose.yaml"); err != nil {
		t.Fatal(err)
	}
	var project struct {
		Services map[string]struct {
			Image       string
			Privileged  bool
			ReadOnly    bool     `yaml:"read_only"`
			CapDrop     []string `yaml:"cap_drop"`
			SecurityOpt []string `yaml:"security_opt"`
		}
	}
	if err := yaml.Unmarshal(text, &project); err != nil {
		t.Fatal(err)
	}
	for name, s := range project.Services {
		if strings.HasPrefix(s.Image, "piko:") && (s.Privileged || !s.ReadOnly || strings.Join(s.CapDrop, ",") != "ALL" || strings.Join(s.SecurityOpt, ",") != "no-new-privileges:true") {
			t.Errorf("compose.yaml: %s may do too much: %+v", name, s)
		}
	}
}

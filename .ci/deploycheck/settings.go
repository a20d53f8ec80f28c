package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// setting is the value of a setting of piko's, by the name of its flag: from
// the command line of the container, else from its configuration file.
func (c *cluster) setting(pod corev1.PodSpec, container *corev1.Container, name string) string {
	if value := flagValue(container, name); value != "" {
		return value
	}
	config, err := c.config(pod, container)
	if err != nil {
		return ""
	}
	var at any = config
	for part := range strings.SplitSeq(strings.ReplaceAll(name, "-", "_"), ".") {
		section, _ := at.(map[string]any)
		at = section[part]
	}
	if at == nil {
		return ""
	}
	return fmt.Sprint(at)
}

// config is the container's configuration file; nil without one.
func (c *cluster) config(pod corev1.PodSpec, container *corev1.Container) (config map[string]any, err error) {
	path := flagValue(container, "config.path")
	if path == "" {
		return nil, nil
	}
	text, ok, err := c.file(pod, container, path)
	if err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("there is no file %s", path), err)
	}
	err = yaml.UnmarshalStrict([]byte(text), &config)
	return config, err
}

// file is what the container finds at path; ok is false if that is in a secret
// or ConfigMap that is not among the manifests.
func (c *cluster) file(pod corev1.PodSpec, container *corev1.Container, path string) (text string, ok bool, err error) {
	for _, m := range container.VolumeMounts {
		key, below := strings.CutPrefix(path, m.MountPath+"/")
		if !below {
			continue
		}
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			return "", false, fmt.Errorf("volume %s is not there", m.Name)
		}
		source := ""
		switch v := pod.Volumes[i]; {
		case v.Secret != nil:
			source = "Secret " + v.Secret.SecretName
		case v.ConfigMap != nil:
			source = "ConfigMap " + v.ConfigMap.Name
		}
		files := c.files[source]
		if files == nil {
			return "", false, nil
		}
		if text, ok = files[key]; !ok {
			return "", false, fmt.Errorf("%s: %s has no %s", path, source, key)
		}
		return text, true, nil
	}
	return "", false, fmt.Errorf("%s: nothing is mounted there", path)
}

// checkPorts checks that the ports on which piko listens are those that the
// container says that it has.
func (c *cluster) checkPorts(pod corev1.PodSpec, container *corev1.Container) error {
	if config, err := c.config(pod, container); config == nil || err != nil {
		return err
	}
	names := map[string]string{"proxy": "proxy.bind-addr", "upstream": "upstream.bind-addr", "admin": "admin.bind-addr",
		"gossip": "cluster.gossip.bind-addr", "gossip-udp": "cluster.gossip.bind-addr", "metrics": "server.bind-addr"}
	var errs []error
	for _, p := range container.Ports {
		if got := c.setting(pod, container, names[p.Name]); got != fmt.Sprintf(":%d", p.ContainerPort) {
			errs = append(errs, fmt.Errorf("port %s is %d, and %s is %q", p.Name, p.ContainerPort, names[p.Name], got))
		}
	}
	return errors.Join(errs...)
}

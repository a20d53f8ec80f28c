package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
)

// takeOther takes what is no service, budget or workload, and notes what it
// refers to.
func (c *cluster) takeOther(object runtime.Object) error {
	meta, ok := object.(metav1.Object)
	if !ok {
		return fmt.Errorf("%T is not checked here", object)
	}
	name := fmt.Sprintf("%s %s", object.GetObjectKind().GroupVersionKind().Kind, meta.GetName())
	refer := func(check func() error) {
		c.refers = append(c.refers, func() error {
			if err := check(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	switch o := object.(type) {
	case *corev1.ConfigMap:
		c.files[name] = o.Data
		for key, value := range o.Data {
			if strings.HasSuffix(key, ".json") && !json.Valid([]byte(value)) {
				return fmt.Errorf("%s: %s is not JSON", name, key)
			}
		}
	case *corev1.Secret:
		c.files[name] = map[string]string{}
		for key, value := range o.Data {
			c.files[name][key] = string(value)
		}
	case *certmanagerv1.Certificate:
		if o.Spec.IssuerRef.Name == "" || len(o.Spec.DNSNames) == 0 {
			return fmt.Errorf("%s: has no issuer or no names", name)
		}
	case *corev1.ServiceAccount:
	case *corev1.Pod:
		refer(func() error { return checkSecurity(o.Spec, &o.Spec.Containers[0]) })
	case *autoscalingv2.HorizontalPodAutoscaler:
		refer(func() error { return c.scaled(o) })
	case *networkingv1.NetworkPolicy:
		refer(func() error { return c.policy(o) })
	case *networkingv1.Ingress:
		refer(func() error { return c.ingress(o) })
	case *gatewayv1.HTTPRoute:
		refer(func() error { return c.backend(o.Spec.Rules[0].BackendRefs[0].BackendRef) })
	case *gatewayv1.GRPCRoute:
		refer(func() error { return c.backend(o.Spec.Rules[0].BackendRefs[0].BackendRef) })
	case *gatewayv1.TLSRoute:
		refer(func() error { return c.backend(o.Spec.Rules[0].BackendRefs[0]) })
	case *gatewayv1alpha2.TCPRoute:
		refer(func() error { return c.backend(o.Spec.Rules[0].BackendRefs[0]) })
	case *monitoringv1.ServiceMonitor:
		refer(func() error { return c.serviceMonitor(o) })
	case *monitoringv1.PodMonitor:
		refer(func() error { return c.podMonitor(o) })
	case *monitoringv1.PrometheusRule:
		if len(o.Spec.Groups) == 0 {
			return fmt.Errorf("%s: has no rules", name)
		}
	default:
		return fmt.Errorf("%T is not checked here", object)
	}
	return checkMeta(metav1.ObjectMeta{Name: meta.GetName(), Namespace: meta.GetNamespace(), Labels: meta.GetLabels()})
}

func (c *cluster) scaled(o *autoscalingv2.HorizontalPodAutoscaler) error {
	target := o.Spec.ScaleTargetRef.Kind + " " + o.Spec.ScaleTargetRef.Name
	if !slices.ContainsFunc(c.workloads, func(w workload) bool { return w.name == target }) || len(o.Spec.Metrics) == 0 {
		return fmt.Errorf("there is no %s, or no metric", target)
	}
	return nil
}

// policy checks that the ports of a policy, which have names, are ports of pods.
func (c *cluster) policy(o *networkingv1.NetworkPolicy) error {
	own, err := c.selected(&o.Spec.PodSelector)
	var errs []error
	for _, rule := range o.Spec.Ingress {
		for _, p := range rule.Ports {
			protocol := corev1.ProtocolTCP
			if p.Protocol != nil {
				protocol = *p.Protocol
			}
			if err == nil && !hasPort(own.template.Spec, p.Port.String(), protocol) {
				errs = append(errs, fmt.Errorf("%s has no %s port %s", own.name, protocol, p.Port))
			}
		}
	}
	return errors.Join(append(errs, err)...)
}

func (c *cluster) ingress(o *networkingv1.Ingress) error {
	for _, rule := range o.Spec.Rules {
		for _, path := range rule.HTTP.Paths {
			b := path.Backend.Service
			s := c.services[b.Name]
			if s == nil || !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == b.Port.Name }) {
				return fmt.Errorf("there is no service %s with a port %s", b.Name, b.Port.Name)
			}
		}
	}
	return nil
}

func (c *cluster) backend(b gatewayv1.BackendRef) error {
	s := c.services[string(b.Name)]
	if s == nil || b.Port == nil || !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == *b.Port }) {
		return fmt.Errorf("there is no service %s with that port", b.Name)
	}
	return nil
}

func (c *cluster) serviceMonitor(o *monitoringv1.ServiceMonitor) error {
	selector, err := metav1.LabelSelectorAsSelector(&o.Spec.Selector)
	if err != nil {
		return err
	}
	found := 0
	for _, s := range c.services {
		if selector.Matches(labels.Set(s.Labels)) && slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == o.Spec.Endpoints[0].Port }) {
			found++
		}
	}
	if found != 1 {
		return fmt.Errorf("selects %d services", found)
	}
	return nil
}

func (c *cluster) podMonitor(o *monitoringv1.PodMonitor) error {
	w, err := c.selected(&o.Spec.Selector)
	if err != nil {
		return err
	}
	if port := o.Spec.PodMetricsEndpoints[0].Port; port == nil || !hasPort(w.template.Spec, *port, corev1.ProtocolTCP) {
		return fmt.Errorf("%s has no such port", w.name)
	}
	return nil
}

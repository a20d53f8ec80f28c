package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
)

// cluster is what the manifests would make.
type cluster struct {
	decoder   runtime.Decoder
	objects   int
	services  map[string]*corev1.Service
	files     map[string]map[string]string // what ConfigMaps and Secrets hold: "Secret piko" and key
	refers    []func() error               // checks what refers to what, once all is there
	budgets   []*policyv1.PodDisruptionBudget
	workloads []workload
}

// workload is what makes pods.
type workload struct {
	name     string // with its kind, for errors
	headless string // the service of a StatefulSet
	selector *metav1.LabelSelector
	template *corev1.PodTemplateSpec
}

func newCluster() *cluster {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, policyv1.AddToScheme, autoscalingv2.AddToScheme, networkingv1.AddToScheme,
		gatewayv1.Install, gatewayv1alpha2.Install, monitoringv1.AddToScheme, certmanagerv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err) // the types are Kubernetes' own
		}
	}
	strict := json.SerializerOptions{Yaml: true, Strict: true} // unknown and repeated fields are errors
	return &cluster{
		decoder:  json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, strict),
		services: map[string]*corev1.Service{},
		files:    map[string]map[string]string{},
	}
}

// add decodes the objects of a file, with what patches change of them.
func (c *cluster) add(file string, ps patches) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return c.addText(file, text, ps)
}

// addText decodes the objects of a text; file is its name in errors.
func (c *cluster) addText(file string, text []byte, ps patches) error {
	var errs []error
	documents := yaml.NewYAMLReader(newReader(text))
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return errors.Join(errs...)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if isComment(document) {
			continue
		}
		object, _, err := c.decoder.Decode(document, nil, nil)
		if err == nil {
			if document, err = ps.apply(object, document); err == nil {
				object, _, err = c.decoder.Decode(document, nil, nil)
			}
		}
		if err == nil {
			err = c.take(object)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s, object %d: %w", file, n, err))
		}
	}
}

// isComment reports whether there is nothing in the document.
func isComment(document []byte) bool {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func (c *cluster) take(object runtime.Object) error {
	c.objects++
	switch o := object.(type) {
	case *corev1.Service:
		c.services[o.Name] = o
		return checkMeta(o.ObjectMeta)
	case *policyv1.PodDisruptionBudget:
		c.budgets = append(c.budgets, o)
		return checkMeta(o.ObjectMeta)
	case *appsv1.StatefulSet:
		for _, claim := range o.Spec.VolumeClaimTemplates { // they are volumes of the pods, by their names
			o.Spec.Template.Spec.Volumes = append(o.Spec.Template.Spec.Volumes, corev1.Volume{Name: claim.Name})
		}
		c.workloads = append(c.workloads, workload{"StatefulSet " + o.Name, o.Spec.ServiceName, o.Spec.Selector, &o.Spec.Template})
		return checkMeta(o.ObjectMeta)
	case *appsv1.Deployment:
		c.workloads = append(c.workloads, workload{"Deployment " + o.Name, "", o.Spec.Selector, &o.Spec.Template})
		return checkMeta(o.ObjectMeta)
	}
	return c.takeOther(object)
}

func checkMeta(m metav1.ObjectMeta) error {
	var errs []error
	for _, reason := range validation.IsDNS1035Label(m.Name) {
		errs = append(errs, fmt.Errorf("name %q: %s", m.Name, reason))
	}
	if m.Namespace != "" {
		errs = append(errs, fmt.Errorf("%s: names the namespace %q", m.Name, m.Namespace))
	}
	return errors.Join(append(errs, checkLabels(m.Labels))...)
}

func checkLabels(set map[string]string) error {
	var errs []error
	for key, value := range set {
		for _, reason := range append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...) {
			errs = append(errs, fmt.Errorf("label %s=%s: %s", key, value, reason))
		}
	}
	return errors.Join(errs...)
}

// check finds what leads nowhere.
func (c *cluster) check() error {
	var errs []error
	for _, s := range c.services {
		errs = append(errs, c.checkService(s))
	}
	for _, b := range c.budgets {
		if _, err := c.selected(b.Spec.Selector); err != nil {
			errs = append(errs, fmt.Errorf("disruption budget %s: %w", b.Name, err))
		}
		if (b.Spec.MaxUnavailable == nil) == (b.Spec.MinAvailable == nil) {
			errs = append(errs, fmt.Errorf("disruption budget %s: has not exactly one of maxUnavailable and minAvailable", b.Name))
		}
	}
	for _, w := range c.workloads {
		if err := c.checkWorkload(w); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", w.name, err))
		}
	}
	for _, refer := range c.refers {
		errs = append(errs, refer())
	}
	return errors.Join(errs...)
}

// checkService checks that a service leads to a port that somebody has.
func (c *cluster) checkService(s *corev1.Service) error {
	w, err := c.selected(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	if err != nil {
		return fmt.Errorf("service %s: %w", s.Name, err)
	}
	var errs []error
	names := map[string]bool{}
	for _, p := range s.Spec.Ports {
		if names[p.Name] || len(s.Spec.Ports) > 1 && p.Name == "" {
			errs = append(errs, fmt.Errorf("service %s: port %q needs a name of its own", s.Name, p.Name))
		}
		names[p.Name] = true
		if !hasPort(w.template.Spec, p.TargetPort.String(), p.Protocol) {
			errs = append(errs, fmt.Errorf("service %s: %s has no %s port %s", s.Name, w.name, orTCP(p.Protocol), p.TargetPort.String()))
		}
	}
	return errors.Join(errs...)
}

// selected is the one workload whose pods the selector selects.
func (c *cluster) selected(selector *metav1.LabelSelector) (workload, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return workload{}, err
	}
	var found []workload
	for _, w := range c.workloads {
		if !s.Empty() && s.Matches(labels.Set(w.template.Labels)) {
			found = append(found, w)
		}
	}
	if len(found) != 1 {
		return workload{}, fmt.Errorf("selector %q selects the pods of %d workloads", s, len(found))
	}
	return found[0], nil
}

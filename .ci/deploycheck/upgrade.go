package main

import (
	"context"
	"errors"
	"fmt"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/engine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// there is a Kubernetes with one secret, or without: what `lookup` asks in a
// template. It answers nothing else.
type there struct {
	dynamic.NamespaceableResourceInterface // never called
	name                                   string
	data                                   map[string]any // nil: no secret
}

func (t there) GetClientFor(_, _ string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return t, true, nil
}

func (t there) Namespace(string) dynamic.ResourceInterface { return t }

func (t there) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	if t.data == nil || name != t.name {
		return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
	}
	return &unstructured.Unstructured{Object: map[string]any{"data": t.data}}, nil
}

// checkUpgrade checks that the cluster's secret is made once and then kept.
func checkUpgrade(loaded *chart.Chart) error {
	first, err := clusterSecret(loaded, nil, there{})
	if err != nil {
		return err
	}
	second, err := clusterSecret(loaded, nil, there{})
	if err != nil {
		return err
	}
	kept, err := clusterSecret(loaded, nil, there{name: "piko-cluster", data: map[string]any{"secret": "a2VwdCBvdmVyIGFuIHVwZ3JhZGU="}})
	if err != nil {
		return err
	}
	values := map[string]any{"server": map[string]any{"cluster": map[string]any{"secret": map[string]any{"value": "given by the values"}}}}
	given, err := clusterSecret(loaded, values, there{name: "piko-cluster", data: map[string]any{"secret": "a2VwdA=="}})
	switch {
	case err != nil:
		return err
	case len(first) < 32 || first == second:
		return errors.New("a new cluster's secret is not random")
	case kept != "kept over an upgrade":
		return fmt.Errorf("after an upgrade the cluster's secret is %q", kept)
	case given != "given by the values":
		return fmt.Errorf("the cluster's secret is %q, and not that of the values", given)
	}
	return nil
}

// clusterSecret is the secret that is rendered for a Kubernetes.
func clusterSecret(loaded *chart.Chart, values map[string]any, in there) (string, error) {
	all, err := toRender(loaded, values)
	if err != nil {
		return "", err
	}
	rendered, err := engine.RenderWithClientProvider(loaded, all, in)
	if err != nil {
		return "", err
	}
	c := newCluster()
	const file = "piko/templates/server-config.yaml"
	if err := c.addText(file, []byte(rendered[file]), nil); err != nil {
		return "", err
	}
	return c.files["Secret piko-cluster"]["secret"], nil
}

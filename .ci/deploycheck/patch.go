package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// patches are what `kubectl patch --patch-file` would change of workloads, by
// kind and name.
type patches map[string]*patch

type patch struct {
	file string
	json []byte
	used bool
}

// readPatches decodes the files strictly: each is one part of a workload.
func (c *cluster) readPatches(files []string) (patches, error) {
	ps := patches{}
	var errs []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		object, _, err := c.decoder.Decode(text, nil, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
			continue
		}
		json, err := yaml.ToJSON(text)
		errs = append(errs, err)
		ps[keyOf(object)] = &patch{file: file, json: json}
	}
	return ps, errors.Join(errs...)
}

// keyOf is the kind and name of a workload; "" of all else.
func keyOf(object runtime.Object) string {
	switch object.(type) {
	case *appsv1.StatefulSet, *appsv1.Deployment:
		return object.GetObjectKind().GroupVersionKind().Kind + " " + object.(metav1.Object).GetName()
	}
	return ""
}

// apply is the document with the object's patch, if there is one.
func (ps patches) apply(object runtime.Object, document []byte) ([]byte, error) {
	p := ps[keyOf(object)]
	if p == nil {
		return document, nil
	}
	p.used = true
	json, err := yaml.ToJSON(bytes.TrimSpace(document))
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(json, p.json, object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.file, err)
	}
	return merged, nil
}

// unused says which patches are for nothing.
func (ps patches) unused() error {
	var errs []error
	for key, p := range ps {
		if !p.used {
			errs = append(errs, fmt.Errorf("%s: there is no %s to patch", p.file, key))
		}
	}
	return errors.Join(errs...)
}

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// billOfMaterials is what the binary says that it was built of, as CycloneDX.
func (s *source) billOfMaterials(b *binary) ([]byte, error) {
	sum := sha256.Sum256(b.content)
	self := cdx.Component{
		BOMRef: "piko", Type: cdx.ComponentTypeApplication, Name: "piko", Version: s.version,
		Description: "Reverse tunnel: server, agent and operator's tool", PackageURL: "pkg:generic/piko@" + s.plainVersion(),
		Licenses: licenceChoice("MIT"),
		Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: fmt.Sprintf("%x", sum)}},
	}
	properties := []cdx.Property{{Name: "vcs:commit", Value: s.commit}, {Name: "go:version", Value: b.info.GoVersion}, {Name: "go:os", Value: b.os}, {Name: "go:arch", Value: b.arch}}
	self.Properties = &properties
	var components []cdx.Component
	var refs []string
	for _, m := range b.modules {
		c := m.component()
		components, refs = append(components, c), append(refs, c.BOMRef)
	}
	bom := cdx.NewBOM()
	// The same binary has the same number, and no other one has it.
	bom.SerialNumber = uuidURN(sum)
	bom.Metadata = &cdx.Metadata{Timestamp: s.time.Format(time.RFC3339), Component: &self}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: self.BOMRef, Dependencies: &refs}}
	var out bytes.Buffer
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

// component is a module as scanners look it up.
func (m *module) component() cdx.Component {
	url := "pkg:golang/" + m.path + "@" + m.version
	if m.path == "stdlib" { // known to scanners without the v
		url = "pkg:golang/stdlib@" + strings.TrimPrefix(m.version, "v")
	}
	c := cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version, PackageURL: url, Licenses: licenceChoice(m.licence)}
	if m.sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.sum}}
	}
	return c
}

func licenceChoice(id string) *cdx.Licenses {
	return &cdx.Licenses{{License: &cdx.License{ID: id}}}
}

// uuidURN makes a UUID of version 8 (RFC 9562, section 5.8) out of a sum.
func uuidURN(sum [sha256.Size]byte) string {
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

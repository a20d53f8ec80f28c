package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// archived is a file in an archive.
type archived struct {
	name    string // with slashes, below the archive's one directory
	mode    int64
	content []byte
}

// archiveFiles are the files of the archive around b, in their order.
func (s *source) archiveFiles(b *binary, completions map[string][]byte) ([]archived, error) {
	name := "piko"
	if b.os == "windows" {
		name = "piko.exe"
	}
	files := []archived{{name, 0o755, b.content}}
	from := []string{"README.md", "LICENSE"}
	if b.os != "windows" {
		from = append(from, "deploy/packages/piko.1")
	}
	if b.os == "linux" {
		from = append(from, "deploy/systemd/piko-server.service", "deploy/systemd/piko-agent.service")
	}
	for _, path := range from {
		content, err := s.file(path)
		if err != nil {
			return nil, err
		}
		files = append(files, archived{strings.TrimPrefix(strings.TrimPrefix(path, "deploy/"), "packages/"), 0o644, content})
	}
	files = append(files, archived{"LICENSES-OF-MODULES", 0o644, licencesText(b.modules)})
	for _, shell := range shells {
		name := map[string]string{"bash": "piko.bash", "zsh": "_piko", "fish": "piko.fish"}[shell]
		files = append(files, archived{"completion/" + name, 0o644, completions[shell]})
	}
	return files, nil
}

// writeTar writes a gzipped tar file. Owner, times and order are ours, whatever
// the files' are.
func writeTar(to, dir string, files []archived, mtime time.Time) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, f := range files {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: dir + "/" + f.name, Size: int64(len(f.content)), Mode: f.mode,
			Uname: "root", Gname: "root", ModTime: mtime, Format: tar.FormatUSTAR,
		}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(f.content); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

// writeZip is writeTar for Windows.
func writeZip(to, dir string, files []archived, mtime time.Time) error {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		header := &zip.FileHeader{Name: dir + "/" + f.name, Method: zip.Deflate, Modified: mtime}
		header.SetMode(os.FileMode(f.mode))
		w, err := z.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := w.Write(f.content); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

// gzipped is content as gzip -n9 gives it.
func gzipped(content []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(content); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writeChecksums writes checksums.txt, as sha256sum reads it.
func writeChecksums(dir string) error {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, e := range entries {
		sum, err := fileSum(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sum, e.Name())
	}
	fmt.Print(text.String())
	return os.WriteFile(filepath.Join(dir, "checksums.txt"), text.Bytes(), 0o644)
}

func fileSum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

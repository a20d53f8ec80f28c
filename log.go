package main

import (
	"io"
	"log/slog"
)

// logConfig is the log.* section.
type logConfig struct {
	Level      string   `default:"info" enum:"debug,info,warn,error" help:"Lowest level to log: debug, info, warn or error."`
	Subsystems []string `help:"Subsystems to log at every level." placeholder:"NAME"`
	Format     string   `default:"json" enum:"json,text" help:"Log format: json, or text for people."`
}

func newLogger(w io.Writer, cfg logConfig) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, nil))
}

package dropsonde

import (
	"errors"
	"fmt"
	"io/fs"

	"dropsonde/wit/dropsonde_plugin_files"
	"dropsonde/wit/dropsonde_plugin_log"
	"dropsonde/wit/dropsonde_plugin_state"
)

// ReadFile returns a whole file of at most 1 MiB.
func ReadFile(path string) ([]byte, error) {
	read := dropsonde_plugin_files.Read(path)
	if read.IsErr() {
		return nil, pathError("read", path, read.Err())
	}
	return read.Ok(), nil
}

// FileNames returns the names in a directory, sorted.
func FileNames(path string) ([]string, error) {
	read := dropsonde_plugin_files.Entries(path)
	if read.IsErr() {
		return nil, pathError("list", path, read.Err())
	}
	names := make([]string, len(read.Ok()))
	for n, entry := range read.Ok() {
		names[n] = entry.Name
	}
	return names, nil
}

func pathError(op, path string, err dropsonde_plugin_files.FileError) error {
	why := map[uint8]error{
		dropsonde_plugin_files.FileErrorDenied:   fs.ErrPermission,
		dropsonde_plugin_files.FileErrorNotFound: fs.ErrNotExist,
		dropsonde_plugin_files.FileErrorNotAFile: errors.New("not a file"),
	}[err.Tag()]
	switch err.Tag() {
	case dropsonde_plugin_files.FileErrorTooLarge:
		why = fmt.Errorf("larger than %d", err.TooLarge())
	case dropsonde_plugin_files.FileErrorOther:
		why = errors.New(err.Other())
	}
	return &fs.PathError{Op: op, Path: path, Err: why}
}

// Infof writes a line to the host's log.
func Infof(format string, values ...any) { write(dropsonde_plugin_log.LevelInfo, format, values) }

// Warnf writes a warning to the host's log.
func Warnf(format string, values ...any) { write(dropsonde_plugin_log.LevelWarn, format, values) }

func write(level uint8, format string, values []any) {
	dropsonde_plugin_log.Write(level, fmt.Sprintf(format, values...))
}

// LoadState returns the bytes that SaveState saved last; nil if nothing was saved.
func LoadState() []byte {
	return dropsonde_plugin_state.Load().SomeOr(nil)
}

// SaveState keeps at most 64 KiB across traps, reloads and restarts of the host.
func SaveState(bytes []byte) error {
	if saved := dropsonde_plugin_state.Save(bytes); saved.IsErr() {
		return errors.New(saved.Err())
	}
	return nil
}

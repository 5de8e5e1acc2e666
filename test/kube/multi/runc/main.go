// A wrapper in front of runc for nodes that are namespaces of a machine: their cgroups have no controllers, so that
// limits can't be set, and nobody there may make a process harder to kill than it is. Everything else is runc's.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

const runc = "/usr/sbin/runc"

func main() {
	// Changes limits only, and would fail.
	if slices.Contains(os.Args, "update") {
		return
	}
	if bundle := bundleOf(os.Args); bundle != "" {
		if err := strip(filepath.Join(bundle, "config.json")); err != nil {
			fmt.Fprintln(os.Stderr, "runc wrapper:", err)
			os.Exit(1)
		}
	}
	err := syscall.Exec(runc, append([]string{"runc"}, os.Args[1:]...), os.Environ())
	fmt.Fprintln(os.Stderr, "runc wrapper:", err)
	os.Exit(1)
}

func bundleOf(args []string) string {
	at := slices.IndexFunc(args, func(arg string) bool { return arg == "--bundle" || arg == "-b" })
	if at < 0 || at+1 >= len(args) {
		return ""
	}
	return args[at+1]
}

// strip leaves of a container's resources only which devices it may use.
func strip(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	if process, ok := spec["process"].(map[string]any); ok {
		delete(process, "oomScoreAdj")
	}
	if linux, ok := spec["linux"].(map[string]any); ok {
		if resources, ok := linux["resources"].(map[string]any); ok {
			linux["resources"] = map[string]any{"devices": resources["devices"]}
		}
	}
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

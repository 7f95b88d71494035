package cli

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// Document prints what args ask for, and reports whether that is anything: with
// -man a manual page, with -completion SHELL a script for bash, zsh or fish. It
// adds these flags to fs, which must have all others.
func Document(fs *flag.FlagSet, args []string, summary string, stdout io.Writer) bool {
	fs.Bool("man", false, "print a manual page and end")
	fs.String("completion", "", "print the completion script for a `shell`, bash, zsh or fish, and end")
	switch {
	case len(args) == 1 && strings.TrimLeft(args[0], "-") == "man" && args[0] != "man":
		writeManual(stdout, fs, summary)
	case len(args) == 2 && (args[0] == "-completion" || args[0] == "--completion"):
		return writeCompletion(stdout, fs, args[1])
	default:
		return false
	}
	return true
}

// writeManual writes a page for man(1).
func writeManual(w io.Writer, fs *flag.FlagSet, summary string) {
	escape := strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace
	fmt.Fprintf(w, ".TH %s 1 \"\" %q\n.SH NAME\n%s \\- %s\n.SH SYNOPSIS\n.B %s\n[\\fIflags\\fR]\n.SH OPTIONS\n",
		strings.ToUpper(fs.Name()), escape(Version()), fs.Name(), escape(summary), fs.Name())
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, ".TP\n\\fB\\-%s\\fR", escape(f.Name))
		if value != "" {
			fmt.Fprintf(w, " \\fI%s\\fR", escape(value))
		}
		fmt.Fprintf(w, "\n%s\n", strings.TrimPrefix(escape("\n"+usage), "\n"))
		if d := f.DefValue; d != "" && d != "false" && d != "0" {
			fmt.Fprintf(w, "The default is %s.\n", escape(d))
		}
	})
	fmt.Fprint(w, ".SH EXIT STATUS\n0 after a signal too, 1 after an error, 2 if the command line is wrong.\n.SH SEE ALSO\n.BR wg (8),\n.BR wg\\-quick (8)\n")
}

// writeCompletion writes a completion script, and reports whether there is one for
// the shell.
func writeCompletion(w io.Writer, fs *flag.FlagSet, shell string) bool {
	var words []string
	fs.VisitAll(func(f *flag.Flag) { words = append(words, "-"+f.Name) })
	name := fs.Name()
	switch shell {
	case "bash":
		fmt.Fprintf(w, "complete -o default -W '%s' %s\n", strings.Join(words, " "), name)
	case "zsh":
		fmt.Fprintf(w, "#compdef %s\n_arguments \\\n", name)
		fs.VisitAll(func(f *flag.Flag) {
			value, usage := flag.UnquoteUsage(f)
			spec := "-" + f.Name + "[" + strings.NewReplacer("[", "(", "]", ")", "'", "", ":", `\:`).Replace(usage) + "]"
			if value != "" {
				spec += ":" + value + ":_files"
			}
			fmt.Fprintf(w, "  '%s' \\\n", spec)
		})
		fmt.Fprintln(w, "  '*:file:_files'")
	case "fish":
		fs.VisitAll(func(f *flag.Flag) {
			value, usage := flag.UnquoteUsage(f)
			required := map[bool]string{true: " -r", false: ""}[value != ""]
			fmt.Fprintf(w, "complete -c %s -o %s%s -d '%s'\n", name, f.Name, required, strings.ReplaceAll(usage, "'", ""))
		})
	default:
		return false
	}
	return true
}

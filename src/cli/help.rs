//! What helps people with the command line: examples, completions for shells, and the manual page.

use clap_complete::Shell;
use clap_mangen::Man;

use super::args::command_line;
use super::{Failure, NAME, print};

pub(super) const MAIN: &str = "\
Examples:
  litestream-multitenant demo
      shows in half a minute what this is, and leaves nothing behind
  litestream-multitenant -bucket company-data -watch-path /data/
      mounts over /data/ and replicates every GUID.db in it to the bucket, until SIGINT or SIGTERM
  litestream-multitenant -config /etc/litestream-multitenant.yml -exec /usr/bin/app -its flags
      the same by a configuration, with the application as its command
  litestream-multitenant status
      asks the running instance how its clients are
  litestream-multitenant list -bucket company-data
      shows what can be restored, from the bucket alone
  litestream-multitenant restore GUID -o tenant.db -bucket company-data
      writes a tenant's newest state

STORE is a bucket's NAME, s3://NAME/PREFIX, or file:///DIRECTORY. Credentials are the AWS SDK's: environment, profile, role.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 `verify` found damage. See `COMMAND --help` for each command.";

pub(super) const RESTORE: &str = "\
Examples:
  litestream-multitenant restore GUID -o tenant.db -bucket company-data
      the newest state; `acme/orders` in the place of GUID for a tenant's database
  litestream-multitenant restore GUID -o tenant.db -timestamp 2025-01-15T10:30:45Z -bucket company-data
      the newest moment at or before that time
  litestream-multitenant restore GUID -o tenant.db -txid 1234 -bucket company-data
      exactly after that transaction; `list GUID` shows which there are
  litestream-multitenant restore GUID -o tenant.db -if-missing -if-replica-exists -bucket company-data
      before an application starts, at its first deployment, too
  litestream-multitenant restore --all /data -bucket company-data -if-missing
      every client, at its old place below /data; can be given again after an error

Nothing is written to FILE but a whole database, every page of which was checked.";

pub(super) const LIST: &str = "\
Examples:
  litestream-multitenant list -bucket company-data
      the clients in the bucket
  litestream-multitenant list GUID -bucket company-data
      the generations of one, and from when to when it can be restored
  litestream-multitenant list GUID -json -bucket company-data
      every single moment";

pub(super) const VERIFY: &str = "\
Examples:
  litestream-multitenant verify -bucket company-data
      every client: restores it, compares all checksums, runs PRAGMA integrity_check
  litestream-multitenant verify GUID acme/orders -bucket file:///var/lib/replicas

Ends with 0 where all are sound, 3 where one is damaged, 1 where one could not be checked.";

pub(super) const STATUS: &str = "\
Examples:
  litestream-multitenant status
      by the address and the token in /etc/litestream-multitenant.yml, else at 127.0.0.1:8080
  litestream-multitenant status acme/orders -listen 127.0.0.1:9000 -json";

pub(super) const COMPLETIONS: &str = "\
Examples:
  litestream-multitenant completions bash > /etc/bash_completion.d/litestream-multitenant
  litestream-multitenant completions zsh > /usr/local/share/zsh/site-functions/_litestream-multitenant
  litestream-multitenant completions fish > ~/.config/fish/completions/litestream-multitenant.fish";

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line(), NAME, &mut script);
    print(&String::from_utf8(script).expect("BUG: a script is text"))
}

/// Prints the manual page.
pub(super) fn manual() -> Result<(), Failure> {
    print(&page())
}

fn page() -> String {
    let mut command = command_line();
    command.build();
    let mut text = PREAMBLE.to_owned();
    text += &rendered(|out| {
        let man = Man::new(command.clone()).section("1").source(NAME);
        man.render_title(out)?;
        man.render_name_section(out)?;
        man.render_synopsis_section(out)?;
        man.render_description_section(out)?;
        man.render_options_section(out)?;
        man.render_subcommands_section(out)
    });
    for sub in command.get_subcommands() {
        let name = sub.get_name().to_uppercase();
        let part = rendered(|out| {
            let man = Man::new(sub.clone());
            man.render_description_section(out)?;
            man.render_synopsis_section(out)?;
            man.render_options_section(out)
        });
        let part = part
            .replace(".SH DESCRIPTION\n", "")
            .replace(".SH ", ".SS ");
        text.push_str(&format!(".SH \"{name}\"\n{part}"));
        text.push_str(&examples(sub));
    }
    text.push_str(&examples(&command).replace(".SS ", ".SH "));
    text.push_str(FILES);
    text
}

/// How an apostrophe is written.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

const FILES: &str = "\
.SH FILES
.TP
/etc/litestream\\-multitenant.yml
The configuration that is read where no \\-config is given.
.TP
\\&.litestream\\-multitenant
In the directory underneath the mount: how far each database is captured and stored, and what waits for the store.
.SH ENVIRONMENT
.TP
RUST_LOG
A level for this program's log: error, warn, info or debug.
";

/// What stands under the help, as it is laid out there.
fn examples(command: &clap::Command) -> String {
    let Some(text) = command.get_after_help() else {
        return String::new();
    };
    let text = text.to_string().replace('\\', "\\\\").replace('-', "\\-");
    let text = text.trim_start_matches("Examples:\n");
    format!(".SS EXAMPLES\n.nf\n{text}\n.fi\n")
}

fn rendered(render: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes).expect("BUG: memory takes all that is written");
    // The crate's own first lines come with every part, and are needed once.
    let text = String::from_utf8(bytes).expect("BUG: a page is text");
    text.replace(PREAMBLE, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_command_line_that_parses() {
        let texts = [MAIN, RESTORE, LIST, VERIFY, STATUS, COMPLETIONS];
        let mut parsed = 0;
        for line in texts.iter().flat_map(|text| text.lines()) {
            let Some(line) = line.strip_prefix("  litestream-multitenant ") else {
                continue;
            };
            let words = line.split_whitespace().take_while(|word| *word != ">");
            let words = std::iter::once(NAME).chain(words).map(Into::into);
            match super::super::args::parse(words) {
                Ok(super::super::args::Parsed::Run(_)) => parsed += 1,
                _ => panic!("{line}"),
            }
        }
        assert_eq!(parsed, 21);
    }

    #[test]
    fn the_page_has_every_command() {
        let page = page();
        for name in ["RESTORE", "LIST", "VERIFY", "RETAIN", "STATUS", "FILES"] {
            assert!(
                page.contains(&format!("\n.SH \"{name}\"\n"))
                    || page.contains(&format!("\n.SH {name}\n")),
                "{name}"
            );
        }
        assert_eq!(page.matches(PREAMBLE).count(), 1);
    }
}

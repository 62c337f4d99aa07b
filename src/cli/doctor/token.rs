//! Checks of the tokens that a signer's configuration names, as far as files tell: the doctor loads
//! no module and reads no PIN. The configuration is looked for beside the node's, as `signer.toml`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::node::config::SignerMode;
use crate::node::signer::config::SignerConfig;
use crate::node::signer::config::TokenSection;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "token.config", about: "is the signer's configuration in order", run: config },
    Check { id: "token.module", about: "are its modules there, and no spies", run: modules },
    Check { id: "token.pin", about: "are its PIN files closed to others", run: pins },
];

fn beside(scope: &Scope) -> Result<Result<SignerConfig, Finding>, Finding> {
    if scope.config()?.signer.mode == SignerMode::Embedded {
        return Err(Finding::skipped("the node signs itself (signer.mode)"));
    }
    let path = scope.path.as_ref().expect("a configuration has a path");
    let path = path.with_file_name("signer.toml");
    match fs::metadata(&path) {
        Ok(_) => Ok(SignerConfig::load(&path)
            .map_err(|error| Finding::refused(&error, "docs/signer.md has a whole file"))),
        Err(error) => Err(Finding::skipped(format!("{}: {error}", path.display()))),
    }
}

fn config(scope: &Scope) -> Answer {
    let config = beside(scope)??;
    let (validators, tokens) = (config.validator.len(), config.token.len());
    Ok(Finding::ok(format!("{validators} validators, {tokens} tokens")))
}

/// The first finding about a token that is not ok.
fn each(scope: &Scope, check: impl Fn(&TokenSection) -> Finding) -> Answer {
    let config = beside(scope)?.map_err(|_| Finding::skipped("see token.config"))?;
    let worst = config.token.iter().map(check).max_by_key(|finding| finding.outcome);
    worst.ok_or_else(|| Finding::skipped("the signer's configuration names no token"))
}

fn modules(scope: &Scope) -> Answer {
    each(scope, |token| module(&token.name, &token.module))
}

fn module(name: &str, path: &Path) -> Finding {
    let place = path.display();
    let (found, bytes) = match fs::metadata(path).and_then(|found| Ok((found, fs::read(path)?))) {
        Ok(read) => read,
        Err(error) => {
            return Finding::error(
                format!("{name}: {place}: {error}"),
                "install the vendor's library, or correct module under [[token]]",
            );
        }
    };
    if bytes.windows(SPY.len()).any(|text| text == SPY) {
        return Finding::error(
            format!("{name}: {place} is a spy: it writes every PIN in clear to its trace"),
            "name the vendor's library itself",
        );
    }
    if found.mode() & 0o022 != 0 {
        return Finding::error(
            format!("{name}: others can change {place}, which learns the PIN"),
            format!("chown root {place}; chmod 755 {place}"),
        );
    }
    Finding::ok(format!("{name}: {place}"))
}

fn pins(scope: &Scope) -> Answer {
    each(scope, |token| match token.credential.is_empty() {
        true => pin(&token.name, &token.pin),
        false => Finding::ok(format!("{}: the credential {}", token.name, token.credential)),
    })
}

fn pin(name: &str, path: &Path) -> Finding {
    let place = path.display();
    match fs::metadata(path) {
        Ok(found) if found.mode() & 0o077 != 0 => Finding::error(
            format!("{name}: others can read the PIN in {place}"),
            format!("chmod 400 {place}"),
        ),
        Ok(_) => Finding::ok(format!("{name}: {place}")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::skipped(format!("{name}: {place}: {error}"))
        }
        Err(error) => Finding::error(
            format!("{name}: {place}: {error}"),
            format!("(umask 277; cat > {place}), and type the PIN"),
        ),
    }
}

/// The variable by which pkcs11-spy learns whom to forward to stands in its file, whatever its name.
const SPY: &[u8] = b"PKCS11SPY";

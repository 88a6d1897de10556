//! The functions that are compared: microbatch's and those of its peers, each as one would deploy it.

use std::path::PathBuf;
use std::process::Command;

use e2e::functions::{Functions, bench_functions};
use e2e::paths::target_dir;
use e2e::tools::{PeerFunction, powertools_python_function, powertools_typescript_function};
use microbatch_aws::lambda::BoxError;

use crate::args::{Job, Peer};

/// What is measured against the peers.
pub(crate) const OURS: &str = "microbatch";

/// Zips a folder, as one does for Lambda, and prints the zip's size in bytes. Python's own module does it alike for all.
const ZIP: &str =
    "import os, shutil, sys; print(os.path.getsize(shutil.make_archive(sys.argv[1], 'zip', sys.argv[2])))";

/// One of the functions that are compared.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// What it is called in tables, ratios and plots.
    pub(crate) name: &'static str,
    /// What starts it.
    pub(crate) bootstrap: PathBuf,
    /// The folder that one would zip and deploy.
    package: PathBuf,
}

/// All that can be compared, built and installed.
pub(crate) struct Sides {
    functions: Functions,
    peers: Vec<(Peer, Option<PeerFunction>)>,
}

impl Peer {
    /// What it is called in tables, ratios and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Handwritten => "handwritten",
            Peer::JoinAll => "join-all",
            Peer::Python => "python",
            Peer::Typescript => "typescript",
        }
    }
}

impl Job {
    /// The job's name, as the peers know it by their variable `JOB`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Job::Pure => "pure",
            Job::Transaction => "transaction",
        }
    }

    /// What a measure's name ends in.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Job::Pure => "",
            Job::Transaction => "_transaction",
        }
    }
}

impl Sides {
    /// Builds the functions and installs the peers, where that was not done yet. It takes minutes and blocks.
    pub(crate) fn prepare(peers: &[Peer]) -> Result<Self, BoxError> {
        let functions = bench_functions().map_err(|error| error.to_string())?;
        let install = |peer: &Peer| {
            let installed = match peer {
                Peer::Handwritten | Peer::JoinAll => None,
                Peer::Python => Some(powertools_python_function()?),
                Peer::Typescript => Some(powertools_typescript_function()?),
            };
            Ok::<_, BoxError>((*peer, installed))
        };
        Ok(Self { peers: peers.iter().map(install).collect::<Result<_, _>>()?, functions })
    }

    /// The functions of a job: ours, and then the peers'.
    pub(crate) fn of_job(&self, job: Job) -> Vec<Side> {
        let ours = match job {
            Job::Pure => "microbatch-pure",
            Job::Transaction => "process-orders",
        };
        let peers = self.peers.iter().map(|(peer, installed)| match installed {
            Some(PeerFunction { bootstrap, package, .. }) => {
                Side { name: peer.name(), bootstrap: bootstrap.clone(), package: package.clone() }
            }
            None => self.built(peer.name(), peer.name()),
        });
        [self.built(OURS, ours)].into_iter().chain(peers).collect()
    }

    /// What takes an event and does nothing.
    pub(crate) fn noop(&self) -> Side {
        self.built("noop", "noop")
    }

    /// The peers' versions.
    pub(crate) fn versions(&self) -> Vec<(String, String)> {
        let installed = self.peers.iter().filter_map(|(_, installed)| installed.as_ref());
        let versions = installed.flat_map(|peer| &peer.versions);
        versions.map(|(name, version)| ((*name).to_owned(), version.clone())).collect()
    }

    fn built(&self, name: &'static str, binary: &str) -> Side {
        let bootstrap = self.functions.bootstrap(binary);
        let package = bootstrap.parent().map(PathBuf::from).unwrap_or_default();
        Side { name, bootstrap, package }
    }
}

impl Side {
    /// The bytes of the zip that one would deploy.
    pub(crate) fn zip_bytes(&self) -> Result<f64, BoxError> {
        let zip = target_dir().join("bench").join("zips").join(self.name);
        std::fs::create_dir_all(zip.parent().unwrap_or(&zip))?;
        let output = Command::new("python3").args(["-c", ZIP]).arg(&zip).arg(&self.package).output()?;
        let size = String::from_utf8(output.stdout)?.trim().parse();
        Ok(size.map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            format!("{} cannot be zipped by python3: {said}", self.package.display())
        })?)
    }
}

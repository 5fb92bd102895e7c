//! Pulling and building images.

use std::time::Duration;

use weft_compose_rules::policy::Model;
use weft_unit::{Error, Progress, Step, Unit};

use super::{Ready, invalid};
use crate::compose::{Compose, storage};
use crate::over::built_image;
use crate::scratch::write_docker_config;

const PULL_TIMEOUT: Duration = Duration::from_secs(1_800);
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);

impl Compose {
    /// Pulls the images that are missing and builds those that the file says how to.
    pub(super) async fn fetch_images(
        &self,
        unit: &Unit,
        ready: &Ready<'_>,
        model: &Model,
        progress: &Progress,
    ) -> Result<(), Error> {
        let (mut pull, mut build) = (vec!["pull", "--quiet"], vec!["build"]);
        let mut absent = Vec::new();
        for (name, service) in &model.services {
            let built = built_image(unit.id, name, unit.revision);
            let (image, missing) = match (&service.build, &service.image) {
                (Some(_), _) => (built.as_str(), &mut build),
                (None, Some(image)) => (image.as_str(), &mut pull),
                (None, None) => {
                    return Err(invalid(format!(
                        "services.{name}: neither `image` nor `build`"
                    )));
                }
            };
            if !self.engine.has_image(Step::Prepare, image).await? {
                missing.push(name);
                if service.build.is_none() {
                    absent.push(image.to_owned());
                }
            } else if service.build.is_none() {
                self.pulled.touch(image).await?;
            }
        }
        let images = model
            .services
            .values()
            .filter_map(|service| service.image.as_deref());
        write_docker_config(ready.private.path(), unit.secrets.registry.as_ref(), images)
            .map_err(storage(Step::Prepare))?;
        let cli = self.cli(Step::Prepare).await?;
        let call = self.call(unit, ready, Step::Prepare, true)?;
        if pull.len() > 2 {
            progress.send_replace(format!("pulling images of {}", pull[2..].join(", ")));
            self.pull(cli.run(&call, &pull, PULL_TIMEOUT), &absent)
                .await?;
        }
        if build.len() > 1 {
            progress.send_replace(format!("building images of {}", build[1..].join(", ")));
            cli.run(&call, &build, BUILD_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Pulls what is absent, and remembers that it is ours to clean.
    async fn pull(
        &self,
        work: impl Future<Output = Result<Vec<u8>, Error>>,
        absent: &[String],
    ) -> Result<(), Error> {
        // Before it is pulled: an agent that is killed meanwhile knows that the images are its own.
        for image in absent {
            self.pulled.add(image).await?;
        }
        let Err(error) = work.await else {
            return Ok(());
        };
        for image in absent {
            if !self.engine.has_image(Step::Prepare, image).await? {
                self.pulled.remove(image).await?;
            }
        }
        Err(error)
    }
}

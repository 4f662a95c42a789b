//! `honed serve`.

use super::{ConfigArgs, Outcome, say};
use crate::{
    app::{App, AppError},
    shutdown, telemetry,
};

pub(super) fn run(args: &ConfigArgs) -> Outcome {
    let config = args.load()?;
    telemetry::init_logging(&config.daemon.log_format, "info");
    if let Some(why) = &config.untraced {
        tracing::warn!("{why}");
    }
    let runtime = crate::app::runtime()?;
    let served: Result<(), AppError> = runtime.block_on(async {
        let app = App::bind(config).await?;
        let reloader = app.reloader();
        let mut hangups = shutdown::hangups();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                reloader.reload().await;
            }
        });
        let ready = |address| say::show(format_args!("listening on http://{address}"));
        app.run(ready, shutdown::requested()).await
    });
    // Dropped, a runtime waits without end for what blocks beside it: a file that is copied, a model that is loaded. All that had
    // something to finish had its time; the rest ends with the process, in which `main` leaves no destructor to run under it.
    runtime.shutdown_background();
    Ok(served?)
}

use crate::alerts::{AlertDelivery, AlertmanagerNames};
use crate::options::DeliveryOptions;
use crate::read_through::ReadThrough;
use crate::samples::SampleDeliveries;
use dropsonde_engine::Engine;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Sends to other servers until it is dropped.
#[derive(Debug)]
pub struct Deliveries {
    engine: Arc<Engine>,
    running: Mutex<Running>,
    alertmanagers: AlertmanagerNames,
}

#[derive(Debug, Default)]
struct Running {
    alerts: Option<AlertDelivery>,
    samples: SampleDeliveries,
    read_through: Option<Arc<ReadThrough>>,
}

impl Deliveries {
    /// Starts sending.
    pub async fn start(engine: Arc<Engine>, options: DeliveryOptions) -> Self {
        let deliveries = Self { engine, running: Mutex::default(), alertmanagers: Arc::default() };
        deliveries.reconfigure(options).await;
        deliveries
    }

    /// Sends to others from now on. Who is told by both configurations is told nothing twice.
    pub async fn reconfigure(&self, options: DeliveryOptions) {
        let DeliveryOptions { alerting, destinations, read_through, data_dir } = options;
        let mut running = self.running.lock().await;
        if running.alerts.as_ref().is_none_or(|alerts| alerts.options != alerting) {
            if let Some(before) = running.alerts.take() {
                before.stop(&self.engine, &alerting).await;
            }
            let names = self.alertmanagers.clone();
            running.alerts = Some(AlertDelivery::start(&self.engine, &alerting, data_dir.as_deref(), names));
        }
        running.read_through = ReadThrough::reconfigure(&self.engine, running.read_through.take(), read_through);
        running.samples.reconfigure(&self.engine, destinations, data_dir.as_deref()).await;
    }
}

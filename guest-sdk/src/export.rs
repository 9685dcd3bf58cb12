/// Exports a type as the plugin of this crate, with all its roles: [`Sampler`](crate::Sampler),
/// [`Source`](crate::Source), [`Observer`](crate::Observer). Name, version and description come from Cargo.toml.
/// `needs` and `init` are those of the first role.
///
/// ```
/// use dropsonde_guest::{Event, Failure, Observer, Source, Tick, export_plugin};
///
/// #[derive(Default)]
/// struct App;
///
/// impl Source for App {}
/// impl Observer for App {
///     fn observe(&mut self, _tick: &Tick, _events: &[Event]) -> Result<(), Failure> {
///         Ok(())
///     }
/// }
/// export_plugin!(App: Source, Observer);
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty: $first:ident $(, $more:ident)*) => {
        // Natively nothing is exported. This function only makes the plugin count as used.
        #[cfg(not(target_family = "wasm"))]
        #[doc(hidden)]
        #[allow(unreachable_pub)]
        pub fn __plugin() -> impl $crate::$first $(+ $crate::$more)* {
            <$plugin as ::std::default::Default>::default()
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            ::std::thread_local! {
                static PLUGIN: ::std::cell::RefCell<$plugin> = ::std::default::Default::default();
            }

            impl $crate::glue::Exported for Exported {
                type Plugin = $plugin;

                fn description() -> $crate::Description {
                    $crate::Description {
                        name: env!("CARGO_PKG_NAME").into(),
                        version: env!("CARGO_PKG_VERSION").into(),
                        about: env!("CARGO_PKG_DESCRIPTION").into(),
                    }
                }

                fn needs(
                    config: &$crate::Config,
                ) -> ::std::result::Result<::std::vec::Vec<$crate::Need>, $crate::Failure> {
                    <$plugin as $crate::$first>::needs(config)
                }

                fn init(config: &$crate::Config) -> ::std::result::Result<(), $crate::Failure> {
                    Self::with(|plugin| <$plugin as $crate::$first>::init(plugin, config))
                }

                fn with<T>(call: impl FnOnce(&mut $plugin) -> T) -> T {
                    PLUGIN.with_borrow_mut(call)
                }
            }

            $crate::glue::export_plugin_interface!(Exported with_types_in $crate::glue);
            $crate::__export_role!($first Exported);
            $($crate::__export_role!($more Exported);)*
        };
    };
}

/// Exports a [`Sampler`](crate::Sampler) as the plugin of this crate: [`export_plugin!`] with one role.
#[macro_export]
macro_rules! export_sampler {
    ($sampler:ty) => {
        $crate::export_plugin!($sampler: Sampler);
    };
}

/// Exports a [`Source`](crate::Source) as the plugin of this crate: [`export_plugin!`] with one role.
#[macro_export]
macro_rules! export_source {
    ($source:ty) => {
        $crate::export_plugin!($source: Source);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_role {
    (Sampler $exported:ident) => {
        $crate::glue::sampler::export_sampler_interface!($exported with_types_in $crate::glue::sampler);
    };
    (Source $exported:ident) => {
        $crate::glue::source::export_source_interface!($exported with_types_in $crate::glue::source);
    };
    (Observer $exported:ident) => {
        $crate::glue::observer::export_observer_interface!($exported with_types_in $crate::glue::observer);
    };
}

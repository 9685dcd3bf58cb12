// The generated bindings. They free nothing: see `allocate`.
#define free dropsonde_keep_all
#include "wit.c"

// `dropsonde plugin build` adds the world to the module after linking; no object file brings it.
void __component_type_object_force_link_wit(void) {}

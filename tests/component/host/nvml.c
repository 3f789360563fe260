/* An NVML with the machine that FAKE_NVML names, as far as modelcache asks (nvml.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9, MISMATCH = 18 };

/* A GPU's handle is its number from 1; that of its MIG instance number i is 100 more for each i. */
static int is(const char *name) { return strcmp(getenv("FAKE_NVML"), name) == 0; }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return is("no-driver") ? DRIVER_NOT_LOADED : is("mismatch") ? MISMATCH : SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int result) {
    return result == MISMATCH ? "Driver/library version mismatch" : "some error";
}
int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "570.86.15");
    return SUCCESS;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 12080;
    return SUCCESS;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = is("none") ? 0 : 2;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, size_t *device) {
    *device = index + 1;
    return SUCCESS;
}
int nvmlDeviceGetName(size_t device, char *name, unsigned length) {
    const char *product = is("mixed") && device == 2 ? "NVIDIA L4" : "NVIDIA H100 80GB HBM3";
    if (device > 100)
        snprintf(name, length, "%s MIG 1g.10gb", product);
    else
        snprintf(name, length, "%s", product);
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(size_t device, int *major, int *minor) {
    *major = is("mixed") && device == 2 ? 8 : 9;
    *minor = is("mixed") && device == 2 ? 9 : 0;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(size_t device, unsigned *current, unsigned *pending) {
    if (is("mixed"))
        return NOT_SUPPORTED;
    *current = *pending = is("mig") && device == 1;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(size_t device, unsigned *count) {
    *count = 7;
    return device < 100 ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetMigDeviceHandleByIndex(size_t device, unsigned index, size_t *mig) {
    *mig = device + 100 * (index + 1);
    return index == 1 || index == 4 ? SUCCESS : NOT_FOUND; /* given to this container */
}
int nvmlDeviceGetUUID(size_t device, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s-%zu", device > 100 ? "MIG" : "GPU", device);
    return SUCCESS;
}

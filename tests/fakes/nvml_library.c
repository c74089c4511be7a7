/* The few NVML calls that calijoule makes, answering from a script: a library named like the driver's own,
 * so that the real Python bindings load and call it. Energy counts millijoules and never falls by itself. */

#include <stdio.h>
#include <string.h>

#define SUCCESS 0
#define UNINITIALIZED 1
#define INVALID_ARGUMENT 2
#define DRIVER_NOT_LOADED 9
#define MAX_GPUS 8

typedef struct {
    unsigned long long energy_mj;
    int handle_result;
    int energy_result;
} gpu_t;

static gpu_t gpus[MAX_GPUS];
static unsigned int gpu_count;
static int init_result = DRIVER_NOT_LOADED;
static int count_result;
static int users;

/* The script. */

void fake_script(int next_init_result, int next_count_result, unsigned int next_gpu_count)
{
    memset(gpus, 0, sizeof gpus);
    init_result = next_init_result;
    count_result = next_count_result;
    gpu_count = next_gpu_count;
}

void fake_set_results(unsigned int index, int handle_result, int energy_result)
{
    gpus[index].handle_result = handle_result;
    gpus[index].energy_result = energy_result;
}

void fake_spend(unsigned int index, unsigned long long energy_mj)
{
    gpus[index].energy_mj += energy_mj;
}

int fake_users(void)
{
    return users;
}

/* NVML. */

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    if (init_result == SUCCESS)
        users++;
    return init_result;
}

int nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

int nvmlShutdown(void)
{
    if (users == 0)
        return UNINITIALIZED;
    users--;
    return SUCCESS;
}

const char *nvmlErrorString(int result)
{
    static char text[32];
    snprintf(text, sizeof text, "NVML result %d", result);
    return text;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    if (users == 0)
        return UNINITIALIZED;
    *count = gpu_count;
    return count_result;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, gpu_t **gpu)
{
    if (users == 0)
        return UNINITIALIZED;
    if (index >= gpu_count)
        return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return gpus[index].handle_result;
}

int nvmlDeviceGetName(gpu_t *gpu, char *name, unsigned int length)
{
    if (users == 0)
        return UNINITIALIZED;
    snprintf(name, length, "Fake GPU %d", (int)(gpu - gpus));
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(gpu_t *gpu, unsigned long long *energy_mj)
{
    if (users == 0)
        return UNINITIALIZED;
    *energy_mj = gpu->energy_mj;
    return gpu->energy_result;
}

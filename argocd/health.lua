-- Health of windlass.dev resources for Argo CD, from the object alone: conditions follow kstatus.
-- Install: docs/guides/argo-cd.md. Tested by tests/chart/test_health.py.
local waiting = { status = "Progressing", message = "Waiting for the operator" }
local status = obj.status
if status == nil then return waiting end
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then return waiting end
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do conditions[condition.type] = condition end
local function is(kind) return conditions[kind] ~= nil and conditions[kind].status == "True" end
local function say(health, kind)
  return { status = health, message = (conditions[kind].reason or "") .. ": " .. (conditions[kind].message or "") }
end
if is("Failed") then return say("Degraded", "Failed") end
if is("Stalled") then return say("Degraded", "Stalled") end
if is("Complete") then return say("Healthy", "Complete") end
if is("Suspended") then return say("Suspended", "Suspended") end
if is("Ready") then return say("Healthy", "Ready") end
if is("Reconciling") then return say("Progressing", "Reconciling") end
if is("Running") then return say("Progressing", "Running") end
return waiting

/** Every call that the web frontend makes or could make of Supabase, in its order and with its client options. */
import assert from "node:assert/strict";
import test from "node:test";
import { answer, newEmail, PASSWORD, refused, service, signedUp, SUPABASE_URL, visitor } from "./clients.mjs";

const ORIGIN = "http://localhost:3000";
const TASK_COLUMNS = `
  *,
  project:projects (
    id,
    name,
    repo_name,
    repo_owner
  )
`;
const PROJECT = {
  name: "Lighthouse",
  description: "",
  repo_url: "https://github.com/ada/lighthouse",
  repo_name: "lighthouse",
  repo_owner: "ada",
};

const { client: ada, user } = await signedUp();
const project = answer(
  await ada
    .from("projects")
    .insert([{ ...PROJECT, user_id: user.id }])
    .select()
    .single(),
);
const tasks = answer(
  await service
    .from("tasks")
    .insert([
      { user_id: user.id, project_id: project.id, created_at: "2026-01-01T00:00:00Z", status: "completed" },
      { user_id: user.id, project_id: null, created_at: "2026-01-02T00:00:00Z", chat_messages: [{ role: "user" }] },
    ])
    .select("id, status"),
);
const [inProject, alone] = tasks;

// ------------------------------------------------------------------------------------------------- the sign-in page

test("signing up with a page to return to signs in at once", async () => {
  const [browser, email] = [visitor(), newEmail()];
  const options = { emailRedirectTo: `${ORIGIN}/` };
  const { user, session } = answer(await browser.auth.signUp({ email, password: PASSWORD, options }));
  assert.equal(user.email, email);
  assert.equal(session.token_type, "bearer");
  assert.ok(session.refresh_token);
});

test("signing in tells the page, and the session is there after it", async () => {
  const [email, browser] = [newEmail(), visitor()];
  await visitor().auth.signUp({ email, password: PASSWORD });
  const events = [];
  browser.auth.onAuthStateChange((event, session) => events.push([event, session?.user.email]));
  const { session } = answer(await browser.auth.signInWithPassword({ email, password: PASSWORD }));
  assert.deepEqual(answer(await browser.auth.getSession()).session, session);
  assert.deepEqual(events.at(-1), ["SIGNED_IN", email]);
});

test("a wrong password is told apart from a fault", async () => {
  const { error } = await visitor().auth.signInWithPassword({ email: newEmail(), password: PASSWORD });
  assert.deepEqual(
    [error.status, error.code, error.message],
    [400, "invalid_credentials", "Invalid login credentials"],
  );
});

test("the button of GitHub leads to an answer that says it is not enabled", async () => {
  const options = { redirectTo: `${ORIGIN}/`, skipBrowserRedirect: true };
  const { url } = answer(await visitor().auth.signInWithOAuth({ provider: "github", options }));
  assert.ok(url.startsWith(`${SUPABASE_URL}/auth/v1/authorize?provider=github`));
  const page = await fetch(url);
  assert.deepEqual([page.status, (await page.json()).error_code], [400, "validation_failed"]);
});

test("a forgotten password is answered with a sentence to act on", async () => {
  const { error } = await visitor().auth.resetPasswordForEmail(newEmail(), { redirectTo: `${ORIGIN}/` });
  assert.equal(error.code, "email_provider_disabled");
  assert.match(error.message, /sign in with a password/);
});

test("signing out of the menu ends the session", async () => {
  const { client } = await signedUp();
  answer({ data: null, ...(await client.auth.signOut()) });
  assert.equal(answer(await client.auth.getSession()).session, null);
  assert.equal((await client.auth.getUser()).data.user, null);
});

// ----------------------------------------------------------------------------------------------------------- projects

test("getProjects reads projects with the states of their tasks", async () => {
  const columns = `
    *,
    tasks (
      id,
      status
    )
  `;
  const query = ada.from("projects").select(columns).order("created_at", { ascending: false });
  assert.deepEqual(answer(await query), [{ ...project, tasks: [{ id: inProject.id, status: "completed" }] }]);
});

test("createProject returns the row with what the database adds", async () => {
  assert.deepEqual({ ...project, ...PROJECT }, project);
  assert.deepEqual([project.user_id, project.is_active, project.settings], [user.id, true, {}]);
  assert.match(project.created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$/);
});

test("createProject of the same repository again is a conflict", async () => {
  const again = ada.from("projects").insert([{ ...PROJECT, user_id: user.id }]);
  refused(await again.select().single(), "23505", 409);
});

test("updateProject returns the changed row", async () => {
  const change = { description: "of Pharos", settings: { branch: "main" } };
  const changed = answer(await ada.from("projects").update(change).eq("id", project.id).select().single());
  assert.deepEqual({ ...changed, ...change }, changed);
  assert.ok(changed.updated_at > project.updated_at);
  const back = { description: "", settings: {} };
  const undone = answer(await ada.from("projects").update(back).eq("id", project.id).select().single());
  project.updated_at = undone.updated_at;
});

test("getProject finds one, and a missing one has the code that the page takes for null", async () => {
  assert.deepEqual(answer(await ada.from("projects").select("*").eq("id", project.id).single()), project);
  const error = refused(await ada.from("projects").select("*").eq("id", -1).single(), "PGRST116", 406);
  assert.equal(error.details, "The result contains 0 rows");
});

test("deleteProject answers with nothing and the project is gone", async () => {
  const short = { ...PROJECT, repo_url: "https://github.com/ada/brief", repo_name: "brief", user_id: user.id };
  const { id } = answer(await ada.from("projects").insert([short]).select().single());
  const deleted = await ada.from("projects").delete().eq("id", id);
  assert.deepEqual([deleted.error, deleted.data, deleted.status], [null, null, 204]);
  refused(await ada.from("projects").select("*").eq("id", id).single(), "PGRST116");
});

// -------------------------------------------------------------------------------------------------------------- tasks

test("getTasks reads all tasks with their project, newest first", async () => {
  const { user } = answer(await ada.auth.getUser());
  const query = ada.from("tasks").select(TASK_COLUMNS).eq("user_id", user.id);
  const rows = answer(await query.order("created_at", { ascending: false }));
  assert.deepEqual(
    rows.map((row) => [row.id, row.project?.name]),
    [
      [alone.id, undefined],
      [inProject.id, "Lighthouse"],
    ],
  );
  const { id, name, repo_name, repo_owner } = project;
  assert.deepEqual(rows[1].project, { id, name, repo_name, repo_owner });
  assert.equal(rows[0].project, null);
  assert.deepEqual(rows[0].chat_messages, [{ role: "user" }]);
});

test("a task row has the columns that the pages show", async () => {
  const [row] = answer(await ada.from("tasks").select("*").eq("id", alone.id));
  const shown =
    "id user_id project_id status agent repo_url target_branch pr_branch container_id commit_hash pr_number pr_url " +
    "git_diff git_patch changed_files error chat_messages execution_metadata created_at updated_at started_at " +
    "completed_at is_test_data";
  assert.deepEqual(
    shown.split(" ").filter((column) => !(column in row)),
    [],
  );
});

test("getTasks of one project", async () => {
  const query = ada.from("tasks").select(TASK_COLUMNS).eq("user_id", user.id).eq("project_id", project.id);
  const rows = answer(await query.order("created_at", { ascending: false }));
  assert.deepEqual(
    rows.map((row) => row.id),
    [inProject.id],
  );
});

test("getTask finds one, and a missing one has the code that the page takes for null", async () => {
  const found = answer(await ada.from("tasks").select(TASK_COLUMNS).eq("id", inProject.id).single());
  assert.deepEqual([found.id, found.project.repo_owner], [inProject.id, "ada"]);
  refused(await ada.from("tasks").select(TASK_COLUMNS).eq("id", -1).single(), "PGRST116", 406);
});

test("createTask, updateTask and deleting a task are forbidden: only functions write tasks", async () => {
  const created = ada.from("tasks").insert([{ status: "pending", user_id: user.id, chat_messages: [] }]);
  refused(await created.select().single(), "42501", 403);
  const updated = ada.from("tasks").update({ status: "completed" }).eq("id", alone.id);
  refused(await updated.select().single(), "42501", 403);
  refused(await ada.from("tasks").delete().eq("id", alone.id), "42501", 403);
});

test("addChatMessage can read the messages but not write them", async () => {
  const read = ada.from("tasks").select("chat_messages").eq("id", alone.id).single();
  assert.deepEqual(answer(await read), { chat_messages: [{ role: "user" }] });
  const written = ada.from("tasks").update({ chat_messages: [] }).eq("id", alone.id);
  refused(await written.select().single(), "42501", 403);
});

// ------------------------------------------------------------------------------------------------------------ profile

test("getUserProfile reads the whole profile", async () => {
  const profile = answer(await ada.from("users").select("*").eq("id", user.id).single());
  const { id, email, full_name, github_username, github_token, preferences } = profile;
  assert.deepEqual([id, email, full_name], [user.id, user.email, null]);
  assert.deepEqual([github_username, github_token, preferences], [null, null, {}]);
});

test("updateUserProfile writes name and preferences", async () => {
  const change = { full_name: "Ada", github_username: "ada", preferences: { claudeCode: { env: { A: "1" } } } };
  const query = ada.from("users").update(change).eq("id", user.id);
  const changed = answer(await query.select().single());
  assert.deepEqual({ ...changed, ...change }, changed);
});

test("the column for a GitHub token cannot be written", async () => {
  refused(await ada.from("users").update({ github_token: "x" }).eq("id", user.id), "42501", 403);
});

test("a column that is closed to users can be reached in no way", async () => {
  for (const columns of ["*", "key_hash", "id, token:key_hash", "key_hash::text"]) {
    refused(await ada.from("api_keys").select(columns), "42501", 403);
  }
  refused(await ada.from("api_keys").select("id").like("key_hash", "%"), "42501", 403);
  refused(await ada.from("api_keys").select("id").order("key_hash"), "42501", 403);
  refused(await ada.from("users").select("id, api_keys(key_hash)"), "42501", 403);
});

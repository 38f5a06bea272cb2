-- What each role may do with the tables. The rights on a function stand at the end of the file that defines it.
--
-- Three roles send requests: `anon` (nobody has signed in), `authenticated` (a user) and `service_role` (the executor, which
-- row-level security does not restrict). Supabase grants everything on new tables and functions to all three, so every right
-- is first revoked. Users read rows; they change a task or a run only through functions, so that nobody can forge a status
-- or a patch.

-- ------------------------------------------------------------------------------------------------------------ row level

alter table public.users enable row level security;
alter table public.projects enable row level security;
alter table public.tasks enable row level security;
alter table public.run_limits enable row level security;
alter table public.run_starts enable row level security;
alter table public.user_credentials enable row level security;
alter table public.runs enable row level security;
alter table public.task_events enable row level security;
alter table public.task_files enable row level security;
alter table public.task_contents enable row level security;
alter table public.spending enable row level security;
alter table public.api_keys enable row level security;

create policy "Users can view own profile" on public.users for select to authenticated
    using ((select auth.uid()) = id);
create policy "Users can update own profile" on public.users for update to authenticated
    using ((select auth.uid()) = id) with check ((select auth.uid()) = id);

create policy "Users can view own projects" on public.projects for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can insert own projects" on public.projects for insert to authenticated
    with check ((select auth.uid()) = user_id);
create policy "Users can update own projects" on public.projects for update to authenticated
    using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
create policy "Users can delete own projects" on public.projects for delete to authenticated
    using ((select auth.uid()) = user_id);

create policy "Users can view own tasks" on public.tasks for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can view own runs" on public.runs for select to authenticated
    using ((select auth.uid()) = user_id);
-- Events and files belong to the owner of the task. `tasks` itself is under row-level security, so the inner select finds
-- only the caller's tasks.
create policy "Users can view events of own tasks" on public.task_events for select to authenticated
    using (exists (select 1 from public.tasks t where t.id = task_id and t.user_id = (select auth.uid())));
create policy "Users can view files of own tasks" on public.task_files for select to authenticated
    using (exists (select 1 from public.tasks t where t.id = task_id and t.user_id = (select auth.uid())));
create policy "Users can view contents of own runs" on public.task_contents for select to authenticated
    using (exists (select 1 from public.runs r where r.id = run_id and r.user_id = (select auth.uid())));

create policy "Users can view own spending" on public.spending for select to authenticated
    using ((select auth.uid()) = user_id);

create policy "Users can view own api keys" on public.api_keys for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can revoke own api keys" on public.api_keys for delete to authenticated
    using ((select auth.uid()) = user_id);

-- ------------------------------------------------------------------------------------------------------- table and column

revoke all on
    public.users, public.projects, public.tasks, public.run_limits, public.run_starts, public.user_credentials, public.runs,
    public.task_events, public.task_files, public.task_contents, public.spending, public.api_keys
    from anon, authenticated;

grant all on
    public.users, public.projects, public.tasks, public.run_limits, public.run_starts, public.user_credentials, public.runs,
    public.task_events, public.task_files, public.task_contents, public.spending, public.api_keys
    to service_role;

grant select on public.tasks, public.runs, public.task_events, public.task_files, public.task_contents, public.spending
    to authenticated;

-- Row-level security alone would let a user rewrite the columns of an own row that decide rights.
grant select (id, email, full_name, avatar_url, github_username, github_token, preferences, created_at, updated_at,
        is_test_user, expires_at),
    update (full_name, avatar_url, github_username, preferences) on public.users to authenticated;
grant select, delete,
    insert (user_id, repo_url, repo_name, repo_owner, name, description, is_active, settings),
    update (repo_url, repo_name, repo_owner, name, description, is_active, settings) on public.projects to authenticated;
grant usage on sequence public.projects_id_seq to authenticated;
grant select (id, user_id, name, hint, created_at, expires_at, last_used_at), delete on public.api_keys to authenticated;
